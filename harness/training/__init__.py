"""What methods share to train and solve."""
