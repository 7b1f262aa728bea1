"""Backbones that come with core: every timm feature extractor, and the pyramid over one."""
