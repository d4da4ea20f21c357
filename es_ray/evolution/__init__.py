"""Evolution Strategies in NumPy alone: noise, fitness shaping, strategy."""
