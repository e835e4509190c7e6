"""`scripts/bench`: ebscrypt and its peers on the same work, interleaved, as ratios of medians.

Absolute figures of a shared machine mean little; the ratio of two servers that took turns on it within a minute means
something, and the CPU seconds that a server spent per GiB mean most.
"""
