"""What was found out about pictures before they are uploaded: a digest for each, and no bytes."""

from dataclasses import dataclass, field

from craft_tuner.data.pictures import Picture


@dataclass(frozen=True)
class Known:
    """Which image each picture is, and which images the server has."""

    ids: dict[int, tuple[Picture, str]] = field(default_factory=dict)
    """The id of each picture, by the picture's identity; it holds the picture, which keeps that."""
    there: dict[str, bool] = field(default_factory=dict)
    """Whether the server has an image, by id."""
    sound: set[str] = field(default_factory=set)
    """Ids of what was decoded to its end."""

    def stored(self, picture: Picture) -> str | None:
        """The id of a picture that is known to be at the server."""
        _, identity = self.ids.get(id(picture), (picture, ""))
        return identity if self.there.get(identity) else None
