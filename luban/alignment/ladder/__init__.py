"""From REINFORCE to PPO, one rung a file with its equation; `ppo.py` and `grpo.py` stand on the upper ones.

    reinforce -> baseline -> rewards_to_go -> actor_critic -> gae        what an action was worth
    importance -> ppo_penalty -> ppo_clip                                what old actions teach a new policy

All take tensors [batch seq]: trajectories side by side, an action a place, zeros behind a trajectory's end. A policy's
loss comes back per action, so that who calls says over what it is averaged.
"""
