"""The command `vecaf-hf`, and what the recipes share: their options, and a trainer made of them."""
