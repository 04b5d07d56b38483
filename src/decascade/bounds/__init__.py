"""What an activation can see over a declared box of inputs: bounds, proofs, witnesses, and the certificate of them."""

from decascade.bounds.box import Box
from decascade.bounds.certificate import ActivationRecord, Certificate, Status
from decascade.bounds.driver import prove

__all__ = ["ActivationRecord", "Box", "Certificate", "Status", "prove"]
