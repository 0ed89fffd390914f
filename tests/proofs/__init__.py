"""What each evaluator is held against: one function a kind of evaluator."""
