"""Whether a run is what it says: its files as they were written, its numbers as its rows give them; bundles of runs."""

from harness.verification.bundle import is_bundle, verify_bundle, write_bundle
from harness.verification.verify import Verified, verify_run

__all__ = ["Verified", "is_bundle", "verify_bundle", "verify_run", "write_bundle"]
