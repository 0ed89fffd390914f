"""Any two cells compared: differences, flips, margins, power, the gate of nightly runs, and their history."""
