"""Many measurements: what each is, where they run, where their results are kept, and the table of them."""
