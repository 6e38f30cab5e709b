"""KVM's tracepoints: one typed record each, declared once with its fields, its text and its recorded form."""
