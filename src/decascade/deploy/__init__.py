"""What the device eats: TFLite, ONNX and C files from any model, run and compared with it."""
