"""Chinese words, as jieba's own dictionary finds them.

>>> tokens("酒店很干净")
[('酒店', 0, 2), ('很', 2, 3), ('干净', 3, 5)]
"""

from functools import lru_cache


@lru_cache(maxsize=1)
def tokenizer():
    """A jieba tokenizer of our own, so that words added elsewhere to the shared one change nothing here."""
    import logging
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jieba 0.42 has invalid escapes, which newer Pythons warn of
        import jieba
    jieba.setLogLevel(logging.ERROR)  # it announces its dictionary on stderr
    own = jieba.Tokenizer()
    # Left to itself it keeps its dictionary in the temporary folder, and believes what anybody has put there.
    own.FREQ, own.total = own.gen_pfdict(own.get_dict_file())
    own.initialized = True
    return own


def tokens(text: str) -> list[tuple[str, int, int]]:
    """(word, start, end) of each token of jieba's dictionary; HMM guesses at unknown words are off."""
    return list(tokenizer().tokenize(text, HMM=False))
