"""What a machine is asked outside of a build: ping, speed, a shell, its state, how ssh gets there."""
