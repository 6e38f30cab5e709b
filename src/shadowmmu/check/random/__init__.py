"""Random guests: what they may do, storms, fuzzing, and shrinking of what was found."""
