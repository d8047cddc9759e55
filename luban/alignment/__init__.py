"""What people want of a model, taught to it: preferences, rewards, reinforcement learning."""
