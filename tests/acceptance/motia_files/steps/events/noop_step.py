"""A step that is in pictures only."""

config = {
    "type": "noop",
    "name": "Customer",
    "virtualSubscribes": ["order.shown"],
    "virtualEmits": ["order.made"],
    "flows": ["orders"],
}
