"""Settings of the scripts. Every script and module of ours imports this before any library.

So the environment that libraries read when they are imported is set here.
"""

import os
from urllib.parse import urlsplit

# A mirror (HF_ENDPOINT) serves the hub's files, but hf-xet would fetch the large ones from the hub's own servers, which
# may be out of reach: https://github.com/huggingface/huggingface_hub/issues/4475
if urlsplit(os.environ.get("HF_ENDPOINT", "")).hostname not in (None, "huggingface.co"):
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
