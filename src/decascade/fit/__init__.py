"""Training: the graph lowered to torch, the user's data as batches, distillation against the original model.

torch is imported when something is lowered or trained, not before.
"""
