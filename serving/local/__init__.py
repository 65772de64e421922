"""The local CPU model server: one small model, many LoRA adapters, vLLM's HTTP shapes.

For development and small models; production swaps in vLLM by config.
"""
