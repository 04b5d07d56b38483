"""The operations that a .pt2 file may name, in full, with their overloads: nothing beyond this list is looked up in torch.

It holds what the readers read, what torch.export makes of layers of torch.nn that networks on images, series and text are
built of, of shapes and of indices, and the forms of all these that work in place.  None of them reads or writes files,
runs code, looks at memory under other strides (as_strided, set_) or takes a library of kernels.
"""

from __future__ import annotations

from decascade.formats.torch.common import words

_ATEN = words(
    """
_adaptive_avg_pool2d.default _adaptive_avg_pool3d.default _assert_async.default _assert_async.msg _assert_scalar.default
_assert_tensor_metadata.default _convolution.deprecated _convolution.default _fused_rms_norm.default
_local_scalar_dense.default _log_softmax.default _native_batch_norm_legit.default _native_batch_norm_legit.no_stats
_native_batch_norm_legit_functional.default _native_batch_norm_legit_no_training.default _pad_circular.default
_prelu_kernel.default _reshape_alias.default _scaled_dot_product_attention_math.default
_scaled_dot_product_flash_attention_for_cpu.default _softmax.default _to_copy.default _trilinear.default
_unsafe_view.default _upsample_bicubic2d_aa.default _upsample_bicubic2d_aa.vec _upsample_bilinear2d_aa.default
_upsample_bilinear2d_aa.vec _upsample_nearest_exact1d.default _upsample_nearest_exact1d.vec
_upsample_nearest_exact2d.default _upsample_nearest_exact2d.vec _upsample_nearest_exact3d.default
_upsample_nearest_exact3d.vec _weight_norm.default _weight_norm_interface.default abs.default abs_.default absolute.default
absolute_.default acos.default acos_.default adaptive_avg_pool1d.default adaptive_avg_pool2d.default
adaptive_avg_pool3d.default adaptive_max_pool1d.default adaptive_max_pool2d.default adaptive_max_pool3d.default add.Tensor
add.Scalar add_.Tensor add_.Scalar addbmm.default addbmm_.default addcdiv.default addcdiv_.default addcmul.default
addcmul_.default addmm.default addmm.dtype addmm_.default addmv.default addmv_.default addr.default addr_.default
affine_grid_generator.default alias.default all.default all.dim all.dims alpha_dropout.default alpha_dropout_.default
amax.default amin.default aminmax.default any.default any.dim any.dims arange.default arange.start arange.start_step
arctan.default arctan_.default argmax.default argmin.default argsort.default argsort.stable asin.default asin_.default
atan.default atan2.default atan2_.default atan_.default atleast_1d.default atleast_1d.Sequence atleast_2d.default
atleast_2d.Sequence atleast_3d.default atleast_3d.Sequence avg_pool1d.default avg_pool2d.default avg_pool3d.default
baddbmm.default baddbmm.dtype baddbmm_.default batch_norm.default bernoulli.default bernoulli.p bernoulli.Tensor
bernoulli_.Tensor bernoulli_.float bilinear.default bitwise_and.Tensor bitwise_and.Scalar bitwise_and.Scalar_Tensor
bitwise_and_.Tensor bitwise_and_.Scalar bitwise_not.default bitwise_not_.default bitwise_or.Tensor bitwise_or.Scalar
bitwise_or.Scalar_Tensor bitwise_or_.Tensor bitwise_or_.Scalar bitwise_xor.Tensor bitwise_xor.Scalar
bitwise_xor.Scalar_Tensor bitwise_xor_.Tensor bitwise_xor_.Scalar bmm.default bmm.dtype broadcast_tensors.default
broadcast_to.default bucketize.Tensor bucketize.Scalar cat.default cdist.default ceil.default ceil_.default celu.default
celu_.default channel_shuffle.default chunk.default clamp.default clamp.Tensor clamp_.default clamp_.Tensor
clamp_max.default clamp_max.Tensor clamp_max_.default clamp_max_.Tensor clamp_min.default clamp_min.Tensor
clamp_min_.default clamp_min_.Tensor clip.default clip.Tensor clip_.default clip_.Tensor clone.default col2im.default
column_stack.default complex.default concat.default concatenate.default constant_pad_nd.default contiguous.default
conv1d.default conv1d.padding conv2d.default conv2d.padding conv3d.default conv3d.padding conv_depthwise3d.default
conv_transpose1d.default conv_transpose2d.input conv_transpose3d.input convolution.default copy.default copy.Dict_Tensor
copy_.default copy_.Tensor copy_.int copy_.float copysign.Tensor copysign.Scalar copysign_.Tensor copysign_.Scalar
cos.default cos_.default cosh.default cosh_.default cosine_similarity.default count_nonzero.default
count_nonzero.dim_IntList cross.default cumprod.default cumprod_.default cumsum.default cumsum_.default detach.default
detach_.default diag_embed.default diagonal.default diff.default div.Tensor div.Scalar div.Tensor_mode div.Scalar_mode
div_.Tensor div_.Tensor_mode div_.Scalar div_.Scalar_mode divide.Tensor divide.Scalar divide.Tensor_mode divide.Scalar_mode
divide_.Tensor divide_.Tensor_mode divide_.Scalar_mode divide_.Scalar dot.default dropout.default dropout_.default
dstack.default einsum.default einsum.sublist elu.default elu_.default embedding.default empty.memory_format
empty_like.default empty_permuted.default eq.Tensor eq.Scalar eq.Tensor_list eq_.Scalar eq_.Tensor erf.default erf_.default
erfc.default erfc_.default erfinv.default erfinv_.default exp.default exp2.default exp2_.default exp_.default expand.default
expand_as.default expm1.default expm1_.default eye.default eye.m feature_alpha_dropout.default
feature_alpha_dropout_.default feature_dropout.default feature_dropout_.default fft_fft.default fft_fft2.default
fft_fftn.default fft_ifft.default fft_ifft2.default fft_ifftn.default fft_irfft.default fft_irfft2.default
fft_irfftn.default fft_rfft.default fft_rfft2.default fft_rfftn.default fill.Scalar fill.Tensor fill_.Scalar fill_.Tensor
flatten.using_ints flip.default fliplr.default flipud.default floor.default floor_.default floor_divide.default
floor_divide.Scalar floor_divide_.Tensor floor_divide_.Scalar fmax.default fmin.default fmod.Tensor fmod.Scalar fmod_.Tensor
fmod_.Scalar frac.default frac_.default fractional_max_pool2d.default full.default full_like.default gather.default
ge.Tensor ge.Scalar ge_.Scalar ge_.Tensor gelu.default gelu_.default glu.default grid_sampler.default
grid_sampler_2d.default grid_sampler_3d.default group_norm.default gru.input gru.data gt.Tensor gt.Scalar gt_.Scalar
gt_.Tensor hardshrink.default hardsigmoid.default hardsigmoid_.default hardswish.default hardswish_.default hardtanh.default
hardtanh_.default heaviside.default heaviside_.default hstack.default hypot.default hypot_.default im2col.default
imag.default index.Tensor index.Tensor_hacked_twin index.list_Tensor index_add.default index_add_.default
index_fill.int_Tensor index_fill.int_Scalar index_fill_.int_Tensor index_fill_.int_Scalar index_put.default
index_put.hacked_twin index_put_.default index_put_.hacked_twin index_select.default inner.default instance_norm.default
isfinite.default isinf.default isnan.default item.default kthvalue.default layer_norm.default le.Tensor le.Scalar le_.Scalar
le_.Tensor leaky_relu.default leaky_relu_.default lerp.Scalar lerp.Tensor lerp_.Scalar lerp_.Tensor lift_fresh.default
lift_fresh_copy.default linalg_norm.default linalg_norm.ord_str linalg_vector_norm.default linear.default
linspace.Tensor_Tensor linspace.Tensor_Scalar linspace.Scalar_Tensor linspace.default log.default log10.default
log10_.default log1p.default log1p_.default log2.default log2_.default log_.default log_sigmoid.default
log_sigmoid_forward.default log_softmax.int logcumsumexp.default logical_and.default logical_and_.default
logical_not.default logical_not_.default logical_or.default logical_or_.default logical_xor.default logical_xor_.default
logit.default logit_.default logsumexp.default lstm.input lstm.data lt.Tensor lt.Scalar lt_.Scalar lt_.Tensor
masked_fill.Scalar masked_fill.Tensor masked_fill_.Scalar masked_fill_.Tensor masked_scatter.default masked_scatter_.default
matmul.default max.other max.default max.dim max_pool1d.default max_pool1d_with_indices.default max_pool2d.default
max_pool2d_with_indices.default max_pool3d.default max_pool3d_with_indices.default max_unpool2d.default max_unpool3d.default
maximum.default mean.default mean.dim median.default median.dim meshgrid.default meshgrid.indexing min.other min.default
min.dim minimum.default mish.default mish_.default mm.default mm.dtype mode.default moveaxis.intlist moveaxis.int
movedim.int movedim.intlist mul.Tensor mul.Scalar mul_.Tensor mul_.Scalar multiply.Tensor multiply.Scalar multiply_.Tensor
multiply_.Scalar mv.default nan_to_num.default nan_to_num_.default narrow.default narrow.Tensor native_batch_norm.default
native_channel_shuffle.default native_dropout.default native_group_norm.default native_layer_norm.default ne.Tensor
ne.Scalar ne.Tensor_list ne_.Scalar ne_.Tensor neg.default neg_.default negative.default negative_.default new_empty.default
new_full.default new_ones.default new_zeros.default norm.Scalar norm.ScalarOpt_dim norm.ScalarOpt_dim_dtype
norm.ScalarOpt_dtype numpy_T.default numpy_T.a one_hot.default ones.default ones_like.default outer.default pad.default
pairwise_distance.default permute.default pixel_shuffle.default pixel_unshuffle.default pow.Tensor_Tensor pow.Tensor_Scalar
pow.Scalar pow_.Scalar pow_.Tensor prelu.default prod.default prod.dim_int rand.default rand.generator rand_like.default
rand_like.generator randint.default randint.generator randint.low randint.low_generator randn.default randn.generator
randn_like.default randn_like.generator real.default reciprocal.default reciprocal_.default reflection_pad1d.default
reflection_pad2d.default reflection_pad3d.default relu.default relu6.default relu6_.default relu_.default remainder.Tensor
remainder.Scalar remainder.Scalar_Tensor remainder_.Tensor remainder_.Scalar renorm.default renorm_.default repeat.default
repeat_interleave.Tensor repeat_interleave.self_Tensor repeat_interleave.self_int replication_pad1d.default
replication_pad2d.default replication_pad3d.default reshape.default reshape_as.default rms_norm.default rnn_relu.input
rnn_relu.data rnn_tanh.input rnn_tanh.data roll.default rot90.default round.default round.decimals round_.default
round_.decimals rrelu.default rrelu_.default rrelu_with_noise.default rrelu_with_noise_.default
rrelu_with_noise_functional.default rsqrt.default rsqrt_.default rsub.Tensor rsub.Scalar scalar_tensor.default
scaled_dot_product_attention.default scatter.value scatter.src scatter.reduce scatter.value_reduce scatter_.src
scatter_.value scatter_.reduce scatter_.value_reduce scatter_add.default scatter_add_.default searchsorted.Tensor
searchsorted.Scalar select.int select_scatter.default selu.default selu_.default sgn.default sgn_.default sigmoid.default
sigmoid_.default sign.default sign_.default silu.default silu_.default sin.default sin_.default sinc.default sinc_.default
sinh.default sinh_.default slice.Tensor slice_scatter.default softmax.int softplus.default softshrink.default sort.default
sort.stable sort.Tensor split.Tensor split.sizes split.default split_with_sizes.default sqrt.default sqrt_.default
square.default square_.default squeeze.default squeeze.dim squeeze.dims squeeze_.default squeeze_.dim squeeze_.dims
stack.default std.default std.dim std.correction std_mean.default std_mean.dim std_mean.correction sub.Tensor sub.Scalar
sub_.Tensor sub_.Scalar subtract.Tensor subtract.Scalar subtract_.Tensor subtract_.Scalar sum.dim_IntList sum.default
swapaxes.default swapaxes_.default swapdims.default swapdims_.default sym_constrain_range.default
sym_constrain_range_for_size.default sym_numel.default sym_size.int sym_size.default sym_stride.int sym_stride.default
t.default t_.default take_along_dim.default tan.default tan_.default tanh.default tanh_.default tensor_split.sections
tensor_split.indices tensor_split.tensor_indices_or_sections threshold.default threshold_.default tile.default to.device
to.dtype to.other to.prim_Device to.prim_dtype to.prim_other topk.default trace.default transpose.int transpose_.default
tril.default tril_.default triu.default triu_.default true_divide.Tensor true_divide.Scalar true_divide_.Tensor
true_divide_.Scalar trunc.default trunc_.default type_as.default unbind.int unflatten.int unfold.default
unsafe_chunk.default unsafe_split.Tensor unsqueeze.default unsqueeze_.default upsample_bicubic2d.default
upsample_bicubic2d.vec upsample_bilinear2d.default upsample_bilinear2d.vec upsample_linear1d.default upsample_linear1d.vec
upsample_nearest1d.default upsample_nearest1d.vec upsample_nearest2d.default upsample_nearest2d.vec
upsample_nearest3d.default upsample_nearest3d.vec upsample_trilinear3d.default upsample_trilinear3d.vec var.default var.dim
var.correction var_mean.default var_mean.dim var_mean.correction vdot.default view.default view.dtype view_as.default
view_as_complex.default view_as_real.default vstack.default where.self where.ScalarOther where.ScalarSelf where.Scalar
where.default zero.default zero_.default zeros.default zeros_like.default
    """
)
_SIZES = words(
    """
_operator.add _operator.sub _operator.mul _operator.floordiv _operator.truediv _operator.mod _operator.neg _operator.pos
_operator.getitem _operator.eq _operator.ne _operator.lt _operator.le _operator.gt _operator.ge _operator.and_ _operator.or_
_operator.not_ math.ceil math.floor math.trunc torch.sym_float torch.sym_int torch.sym_ite torch.sym_max torch.sym_min
torch.sym_not
    """
)
"""Arithmetic on sizes."""

OPERATORS = frozenset(f"torch.ops.aten.{name}" for name in _ATEN) | _SIZES | {"torch.ops.prims.convert_element_type.default"}
"""As a file writes them."""
