"""Why an attention call is not sparse: every reason, and its text for people."""

from enum import Enum


class Reason(Enum):
    """A member's value is its text; each {} in it stands for a detail."""

    # Nothing in the forward pass can be sparse.
    UNKNOWN_MODEL = "{} is not a model this pack knows"
    NOT_A_VIDEO = "not a video"
    CACHED_FRAMES = "made some frames at a time, which see what came before"
    REORDERED = "{} reorders the video's tokens"
    # The call is not self-attention over the video.
    CROSS_ATTENTION = "cross-attention"
    OTHER_SEQUENCE = "attention over text or sound alone"
    OUTSIDE_BLOCKS = "outside the transformer blocks"
    # It may be, but nothing tells.
    OUTSIDE_PASS = "outside a forward pass"
    SAME_LENGTHS = "the video and its prompt both have {} tokens: can't tell which this is"
    OTHER_LENGTH = "{} tokens are not a video of {} and what goes with it"
    # It asks for what sparse attention does not do.
    ARGUMENTS = "attention with {}"
    MASK = "attention mask"
    IN_PARTS = "guides with a mask or a strength other than 1"
    OTHER_HEADS = "keys have other heads than queries"
    # It could be sparse, but the settings, the video or an error keep it dense.
    SINGLE_FRAME = "single frame"
    DENSE_STEP = "dense step"
    DENSE_BLOCK = "dense block"
    TOO_DENSE = "{} of the blocks would be kept"
    FAILED = "{}"
    # A block ran, and its attention never came to us.
    NO_HOOK = "the blocks' attention asks no attention hook"
    NO_OPTIONS = "the blocks are called without transformer_options"
    ANOTHER_HOOK = "another node's attention is on the hook in the place of this node's"
    REPLACED = "{} is replaced by {}, and asks no attention hook"
    # Only the probe has these: why it did not measure a call.
    COMPILED = "the model runs under torch.compile: bypass the node that compiles to measure"
    OTHER_SIZE = "a video of another size than before in the run"
    NOT_FINITE = "numbers that are not finite"


# Calls that are known to be no self-attention over the video. They are counted apart.
NOT_OURS = (Reason.CROSS_ATTENTION, Reason.OTHER_SEQUENCE, Reason.OUTSIDE_BLOCKS)


class Why(str):
    """A reason with its details, as a text that still knows its `reason`.

    Reports, JSON and the page take it for what it says; code asks for its reason.
    """

    reason: Reason

    def __new__(cls, reason: Reason, *details):
        why = super().__new__(cls, reason.value.format(*details))
        why.reason, why._details = reason, details
        return why

    def __getnewargs__(self):  # for copies
        return self.reason, *self._details
