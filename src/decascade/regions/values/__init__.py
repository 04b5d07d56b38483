"""What the weights themselves say: rewrites that hold on every input because of the values of kernels and biases."""
