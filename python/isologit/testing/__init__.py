"""Whether a language model's head is what its users take it for: docs/testing_heads.md."""

from isologit.testing._verify import Check, Verdict, verify_head

__all__ = ["Check", "Verdict", "verify_head"]
