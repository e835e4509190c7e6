"""What happened to volumes, snapshots and keys, told as EventBridge tells it, and who wants to hear of it."""
