"""The gate between a Keras file and Keras: what a configuration may say, as lists, and its reading as plain data."""
