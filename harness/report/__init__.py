"""What people see of a set of runs: leaderboard page, tables, plots, terminal. Reads summaries, computes nothing."""
