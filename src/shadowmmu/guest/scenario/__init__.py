"""The scenario language: parser, operations, set-up of a machine."""
