"""Writes the files of this folder with Keras 2 itself: `pip install tf_keras`, into an environment of its own, and run this.

Each model is saved as HDF5 and as an archive; NAME.npz holds inputs and what Keras 2 computed from them.  The archive of
`layers` names its modules as TensorFlow 2.13 to 2.15 did.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras as keras

L, HERE = keras.layers, Path(__file__).parent


def calls() -> keras.Model:
    """Operators and functions of TensorFlow on the tensors of a model."""
    x = keras.Input((8, 8, 3), name="x")
    a = tf.nn.relu(L.Conv2D(4, 3, padding="same", name="c0")(x / 255.0))
    c = a + L.Conv2D(4, 3, padding="same", name="c1")(a)
    e = tf.concat([tf.nn.relu6(c * 0.5 + 3.0), a], axis=-1)
    g = 1.0 - L.Conv2D(4, 3, name="c2")(tf.pad(e, [[0, 0], [1, 1], [2, 1], [0, 0]]))
    i = tf.nn.leaky_relu(g, alpha=0.1)
    j = tf.math.multiply(i, tf.sigmoid(i)) - i
    m = tf.nn.swish(j) + tf.tanh(j) - 0.25
    n = tf.nn.softmax(L.Dense(6, name="d")(tf.reduce_mean(m, axis=[1, 2])))
    o = tf.transpose(tf.reshape(tf.maximum(n, tf.add(n, n)), [-1, 2, 3]), [0, 2, 1])
    p = tf.nn.avg_pool2d(tf.nn.max_pool2d(m, 2, 2, "SAME"), 3, 1, "SAME")
    q = tf.image.resize(tf.image.resize(p, [9, 10]), [11, 12], method="nearest")
    r = tf.maximum(tf.clip_by_value(-tf.divide(q, 3.0), 0.0, 1.0), 0.0)
    return keras.Model(x, [o, r])


def layers() -> keras.Model:
    """Keys that are gone, slashes in names, a nested Sequential and a layer that is used twice."""
    inner = keras.Sequential([L.Conv2D(4, 3, padding="same", input_shape=(8, 8, 3)), L.BatchNormalization()], name="inner/net")
    x = keras.Input((8, 8, 3), name="in/x")
    twice = L.DepthwiseConv2D(3, padding="same", name="inner_net")
    y = twice(twice(inner(L.RandomFlip(name="flip")(x))))
    y = L.SpatialDropout2D(0.1)(L.Conv2DTranspose(3, 3, strides=2, name="up/conv")(y))
    y = L.SeparableConv2D(4, 3, name="s", bias_initializer=tf.constant_initializer(0.0))(L.LeakyReLU(0.1)(y))
    z = L.LSTM(3, name="l")(L.Reshape((-1, 4))(y))
    return keras.Model(x, [y, z], name="a/b")


def sequence() -> keras.Model:
    return keras.Sequential([
        L.Conv2D(4, 3, input_shape=(8, 8, 3), name="c"), L.BatchNormalization(name="b"), L.ReLU(6.0), L.Flatten(), L.Dense(3),
    ])


def as_in_tensorflow_2_15(path: Path) -> None:
    """Its Keras was keras.src, which the package tf_keras calls tf_keras.src."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["config.json"] = members["config.json"].replace(b"tf_keras.src.", b"keras.src.")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def main() -> None:
    rng = np.random.default_rng(0)
    for make in (calls, layers, sequence):
        model, name = make(), make.__name__
        for weight in model.weights:
            value = rng.normal(size=weight.shape)
            if weight.dtype.is_floating:
                weight.assign(1 + abs(value) if "variance" in weight.name else 0.4 * value)
        x = rng.uniform(0, 255 if make is calls else 1, (3, 8, 8, 3)).astype(np.float32)
        outputs = model(x, training=False)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        np.savez(HERE / f"{name}.npz", x=x, **{f"output_{i}": np.asarray(o) for i, o in enumerate(outputs)})
        model.save(HERE / f"{name}.h5")
        model.save(HERE / f"{name}.keras")
    as_in_tensorflow_2_15(HERE / "layers.keras")


if __name__ == "__main__":
    main()
