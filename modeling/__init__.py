"""Models: loaded, given LoRA, kept in a folder, and asked in batches."""

import logging
import warnings

# Messages of libraries about themselves, which a user can do nothing about; said while they are imported.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # "Failed to load CPU gemm_4bit_forward"
warnings.filterwarnings("ignore", message="`(is_)?gradient_checkpointing", category=FutureWarning)
