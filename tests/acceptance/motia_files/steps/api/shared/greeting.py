"""What several steps use, and no step."""


def greet(name: str) -> str:
    return f"hello {name}"
