"""How many heads are computed at a time, where each of them needs memory of its own."""


def heads_at_once(heads: int, bytes_of_each: int, most: int) -> int:
    """As many as fit `most` bytes, one at least, and about as many each time."""
    launches = -(-heads // max(1, most // bytes_of_each))
    return -(-heads // launches)
