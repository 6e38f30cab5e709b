"""The pages that are made from tables of the code: each module has a function `page()`."""
