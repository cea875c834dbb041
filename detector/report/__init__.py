"""Pictures of how a training run went."""
