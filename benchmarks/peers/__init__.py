"""Other ways to a cheaper network, written from their papers where no package exists, on the same data and processor time."""
