"""The first value of fields that are arrays of C when compiled."""


def filled(count: int, value: int = 0) -> list[int]:
    """Return `count` times `value`.

    A compiled field copies the list and raises ValueError unless it has the length that the .pxd says.
    """
    return [value] * count
