"""Stacks of experts: tensors (experts, out, in), or in models of some types (experts, in, out)."""

MOST_EXPERTS = 4096  # of one layer; far above any model's, and few enough to be a module each
IN_FIRST = frozenset({"gpt_oss", "llama4", "llama4_text", "aria", "aria_text", "openai_privacy_filter"})
