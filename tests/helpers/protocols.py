"""Ask what a protocol has."""


def public_names(protocol):
    """Names of the attributes and methods of a protocol."""
    return {name for name in [*vars(protocol), *protocol.__annotations__] if not name.startswith("_")}
