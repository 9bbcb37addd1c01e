"""How one subscription, or several together, get from where they are to the present.

Each way is a coroutine that ends when they are live, or returns from where they go on; what else may come of it is in
outcome.py. None of them knows who asked.
"""
