"""Pages with a lane for each CPU: schedules of races, and exhibits of the museum."""
