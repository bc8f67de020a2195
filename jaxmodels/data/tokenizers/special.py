"""Special token ids shared by the answer tokenizers, the row layouts and HRLM."""

PAD, EOS, UNK, SEP = 0, 1, 2, 3
SPECIALS = ("<pad>", "<eos>", "<unk>", "<sep>")
