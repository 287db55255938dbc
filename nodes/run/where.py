"""Where in a run calls ran as they did: in which steps and blocks."""

MANY = 3  # steps or blocks that are listed one by one


def where(run: dict, ran: str) -> tuple[list[int], list[int]]:
    """The steps, by their position in the run, and the blocks in which calls ran as `ran`."""
    steps, blocks = [], set()
    for place, step in enumerate(run["steps"]):
        entries = [entry for entry in step["blocks"] if ran in entry["calls"]]
        if entries:
            steps.append(place)
        for entry in entries:
            if entry["first"] is not None:
                blocks.update(range(entry["first"], entry["last"] + 1))
    return steps, sorted(blocks)


def some(numbers: list[int], of: int, what: str) -> str:
    """In words: [0, 1] -> "first 2 steps". Numbers count from 0, as ComfyUI's do.

    of: how many there are.
    """
    if len(numbers) == of > 1:
        return f"all {of:,} {what}s"
    first = next((i for i in range(len(numbers)) if numbers[i] != i), len(numbers))
    rest = numbers[first:]
    said = []
    if first:
        said.append(f"first {what}" if first == 1 else f"first {first} {what}s")
    if rest and rest == list(range(of - len(rest), of)):
        said.append(f"last {what}" if len(rest) == 1 else f"last {len(rest)} {what}s")
    elif rest and len(rest) <= MANY:
        listed = ", ".join(map(str, rest))
        said.append(f"{what} {listed}" if len(rest) == 1 else f"{what}s {listed}")
    elif rest:
        all_between = rest == list(range(rest[0], rest[-1] + 1))
        number = "" if all_between else f"{len(rest)} of "
        said.append(f"{number}{what}s {rest[0]} to {rest[-1]}")
    return " and ".join(said)
