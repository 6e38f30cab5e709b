# Nothing has a C type here: compiled code is faster even so.
