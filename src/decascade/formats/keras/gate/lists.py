"""What may be built from a Keras file: layers, activations, operations, dtypes.  What is on none of these lists is refused.

On the lists is what computes a result from tensors and numbers alone.  Not on them are layers and operations that take
functions (Lambda, Map, Scan, Switch, WhileLoop, …), that read files (TextVectorization, FeatureSpace), or that run programs
(TFSMLayer, TorchModuleWrapper, JaxLayer, FlaxLayer).
"""

from __future__ import annotations


def _each(*names: str) -> frozenset[str]:
    return frozenset(word for name in names for word in name.split())


def _dimensions(*kinds: str) -> frozenset[str]:
    return frozenset(kind.format(n) for kind in kinds for n in (1, 2, 3))


LAYERS = _dimensions(
    "AdaptiveAveragePooling{}D", "AdaptiveMaxPooling{}D", "AveragePooling{}D", "Conv{}D", "Conv{}DTranspose", "ConvLSTM{}D",
    "Cropping{}D", "GlobalAveragePooling{}D", "GlobalMaxPooling{}D", "MaxPooling{}D", "SpatialDropout{}D", "UpSampling{}D",
    "ZeroPadding{}D",
) | _each(
    "InputLayer Activation ReLU LeakyReLU PReLU ELU Softmax ThresholdedReLU",
    "Dense EinsumDense Embedding ReversibleEmbedding Identity Masking",
    "DepthwiseConv1D DepthwiseConv2D SeparableConv1D SeparableConv2D",
    "Add Average Concatenate Dot Maximum Minimum Multiply Subtract",
    "BatchNormalization GroupNormalization LayerNormalization RMSNormalization UnitNormalization SpectralNormalization",
    "ActivityRegularization AlphaDropout Dropout GaussianDropout GaussianNoise",
    "Flatten Permute RepeatVector Reshape",
    "Attention AdditiveAttention MultiHeadAttention GroupQueryAttention",
    "GRU GRUCell LSTM LSTMCell SimpleRNN SimpleRNNCell RNN StackedRNNCells Bidirectional TimeDistributed",
    "Normalization Rescaling Resizing CenterCrop CategoryEncoding Discretization Hashing IntegerLookup StringLookup",
    "MelSpectrogram STFTSpectrogram",
    "AutoContrast Equalization RandomBrightness RandomColorDegeneration RandomColorJitter RandomContrast RandomCrop",
    "RandomErasing RandomFlip RandomGaussianBlur RandomGrayscale RandomHue RandomInvert RandomPerspective",
    "RandomPosterization RandomRotation RandomSaturation RandomSharpness RandomShear RandomTranslation RandomZoom Solarization",
)
ALIASES = {
    **{f"AvgPool{n}D": f"AveragePooling{n}D" for n in (1, 2, 3)},
    **{f"MaxPool{n}D": f"MaxPooling{n}D" for n in (1, 2, 3)},
    **{f"GlobalAvgPool{n}D": f"GlobalAveragePooling{n}D" for n in (1, 2, 3)},
    **{f"GlobalMaxPool{n}D": f"GlobalMaxPooling{n}D" for n in (1, 2, 3)},
    **{f"Convolution{n}D": f"Conv{n}D" for n in (1, 2, 3)},
    **{f"Convolution{n}DTranspose": f"Conv{n}DTranspose" for n in (1, 2, 3)},
    **{f"SeparableConvolution{n}D": f"SeparableConv{n}D" for n in (1, 2)},
    "BatchNormalizationV1": "BatchNormalization", "BatchNormalizationV2": "BatchNormalization",
    "GroupedQueryAttention": "GroupQueryAttention",
}
"""Second names of layers."""
APPLICATIONS = {
    "LayerScale": "keras.src.applications.convnext",
    "StochasticDepth": "keras.src.applications.convnext",
    "CustomScaleLayer": "keras.src.applications.inception_resnet_v2",
}
"""Layers of the published nets that come with Keras, and where they are defined."""
LAYER_MODULES = frozenset({"keras.layers"})
MODELS = {
    "Functional": frozenset({"keras", "keras.models", "keras.src.models.functional", "keras.src.engine.functional"}),
    "Model": frozenset({"keras", "keras.models", "keras.src.models.model", "keras.src.engine.training"}),
    "Sequential": frozenset({"keras", "keras.models", "keras.src.models.sequential", "keras.src.engine.sequential"}),
}
"""Kinds of models, and the modules that files name for them."""
ACTIVATION_LAYERS = _each("Activation ReLU LeakyReLU PReLU ELU Softmax")
"""Layers that may stand where an activation is asked for."""
ACTIVATIONS = _each(
    "celu elu exponential gelu glu hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh leaky_relu linear log_sigmoid",
    "log_softmax mish relu relu6 selu sigmoid silu soft_shrink softmax softplus softsign sparse_plus sparse_sigmoid sparsemax",
    "squareplus swish tanh tanh_shrink threshold",
)
ACTIVATION_MODULES = frozenset({"builtins", "keras.activations", "keras.src.activations.activations", "keras.src.activations"})
OPERATION_ACTIVATIONS = _each(
    "celu elu gelu hard_sigmoid hard_silu hard_swish hard_tanh leaky_relu log_sigmoid log_softmax relu relu6 selu sigmoid silu",
    "soft_shrink softmax softplus softsign swish tanh exp sin cos abs square",
)
"""Functions of keras.ops that are used as activations; their defaults are not those of keras.activations everywhere."""
OPERATION_MODULES = frozenset({"keras.ops", "keras.ops.nn", "keras.src.ops.nn", "keras.src.ops.numpy"})
_NUMPY = _each(
    "Abs Absolute Add All Amax Amin Any Append Arccos Arccosh Arcsin Arcsinh Arctan Arctan2 Arctanh Argmax Argmin Argpartition",
    "Argsort Average BitwiseAnd BitwiseInvert BitwiseLeftShift BitwiseNot BitwiseOr BitwiseRightShift BitwiseXor BroadcastTo",
    "Cbrt Ceil Clip Concatenate Conj Conjugate Copy Correlate Cos Cosh CountNonzero Cross Cumprod Cumsum Deg2rad Diag Diagflat",
    "Diagonal Diff Digitize Divide DivideNoNan Dot Einsum Equal Exp Exp2 ExpandDims Expm1 Fabs Flip Fliplr Flipud Floor",
    "FloorDivide Fmax Fmin Fmod Full FullLike GetItem Greater GreaterEqual Heaviside Hstack Hypot Imag Inner Isclose Isfinite",
    "Isinf Isnan Kron LeftShift Less LessEqual Log Log10 Log1p Log2 Logaddexp Logaddexp2 LogicalAnd LogicalNot LogicalOr",
    "LogicalXor Matmul Max Maximum Mean Median Meshgrid Min Minimum Mod Moveaxis Multiply NanToNum Negative Nonzero NotEqual",
    "OnesLike Outer Pad Power Prod Ptp Quantile Rad2deg Ravel Real Reciprocal Repeat Reshape RightShift Roll Rot90 Round",
    "SearchSorted Select Sign Signbit Sin Sinc Sinh Sort Split Sqrt Square Squeeze Stack Std Subtract Sum Swapaxes Take",
    "TakeAlongAxis Tan Tanh Tensordot Tile Trace Transpose Tril Triu TrueDivide Trunc Vander Var Vdot Vstack Where ZerosLike",
)
_NN = _each(
    "AdaptiveAveragePool AdaptiveMaxPool AveragePool BatchNorm Celu Conv ConvTranspose DepthToSpace DepthwiseConv",
    "DotProductAttention Elu Fold Gelu Glu HardShrink HardSigmoid HardSilu HardTanh LayerNorm LeakyRelu LogSigmoid LogSoftmax",
    "MaxPool Moments MultiHot Normalize OneHot RMSNorm Relu Relu6 Selu SeparableConv Sigmoid Silu SoftShrink Softmax Softplus",
    "Softsign SpaceToDepth SparsePlus SparseSigmoid Sparsemax Squareplus TanhShrink Threshold Unfold",
)
OPERATIONS = {
    "keras.src.ops.numpy": _NUMPY,
    "keras.src.ops.nn": _NN,
    "keras.src.ops.core": _each(
        "Cast ConvertToTensor SaturateCast Scatter ScatterUpdate Slice SliceUpdate StopGradient Unstack"),
    "keras.src.ops.math": _each(
        "Erf Erfc Erfinv ExtractSequences FFT FFT2 IFFT2 IRFFT ISTFT InTopK Logsumexp RFFT Rsqrt STFT SegmentMax SegmentSum",
        "TopK"),
    "keras.src.ops.linalg": _each("Cholesky Det Inv Norm Solve SolveTriangular"),
    "keras.src.ops.image": _each(
        "AffineTransform CropImages ExtractPatches GaussianBlur HSVToRGB MapCoordinates PadImages RGBToGrayscale RGBToHSV",
        "Resize"),
    "keras.src.ops.einops": _each("Rearrange"),
}
"""Operations by the module that files name for them."""
DTYPES = _each(
    "float16 float32 float64 bfloat16 uint8 uint16 uint32 uint64 int8 int16 int32 int64 bool string complex64 complex128",
)
POLICIES = DTYPES | _each("mixed_float16 mixed_bfloat16") | frozenset(
    f"int8_from_{name}" for name in ("float32", "float16", "bfloat16", "mixed_float16", "mixed_bfloat16"))
