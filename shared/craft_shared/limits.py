"""Limits that belong to the protocol itself: no server may raise them, any server may lower them.

What one server allows (prompts, classes, images, bytes) is its own business and stands on its
model card (`craft_shared.messages.CardLimits`).
"""

MAX_TENSOR_HEADER_BYTES = 4 * 1024 * 1024
"""JSON header of a tensor body. 10,000 class names of 100 characters fit four times."""

MAX_COLONS = 50_000
"""In the JSON of one message. A field has one, and unknown fields are described one by one;
messages have ten fields, so nearly all of these are for class names and templates."""

MAX_JSON_COMMAS = 2**20
"""In one message: a million numbers, which are parsed in 0.1 s; more belong into a tensor body."""

MAX_JSON_QUOTES = 2**18
"""In one message: 100,000 image ids have 200,000."""

MAX_JSON_BRACKETS = 2**17
"""Opening ones in one message: the lists of 1,024 prompts of 75 context tokens are 78,000."""

MAX_HEADER_COMMAS = 2**17
"""In the header of a tensor body, which carries no numbers."""

MAX_IDEMPOTENCY_KEY_CHARS = 128
"""Printable ASCII; derived from what is bought, so that a retry is never a new purchase."""

MAX_TAG_CHARS = 64
"""A tag says what a call was for (fitness, head, test, ...) and is copied to the ledger."""

MAX_OWNER_CHARS = 128
"""Of the name that groups keys and images."""

MAX_CLASS_NAME_CHARS = 256
MAX_TEMPLATE_CHARS = 1024

MAX_TEXTS_PER_CHECK = 2**13
"""Prompts x class names of one check of texts, but always one prompt: they take half a second."""

MAX_IDS_PER_CALL = 100_000
"""Image ids in one manifest or one image set."""

MAX_LIMIT = 10**15
"""Largest budget: sums of three such numbers are exact in every database and in JSON."""

FINEST_STEP = 1e-6
"""Of rounded logits: below it float32 at a scale of 100 is coarser, so nothing would be rounded."""
