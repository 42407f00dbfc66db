"""Pictures, sounds and videos, from wherever they come, checked and made ready for the model.

    path, bytes, file, PIL image, array ──► load_image ──► Image   (H, W, 3) uint8 sRGB, upright
    path, bytes, file, array + rate     ──► load_audio ──► Audio   (n,) float32, 16 kHz mono, within ±1
    path, bytes, file, frames + rate    ──► load_video ──► Video   32 frames as Images, and when each is shown

Files come from strangers, so everything that can be known from a header (kind, size in pixels, seconds, channels) is
checked before anything is decoded, no URL is ever fetched, and an :class:`Image`, :class:`Audio` or :class:`Video`
exists only once all of it is right. What was changed on the way is said in ``notes``. ``data`` is an encoded copy to
embed in a trace: it decodes to exactly the same numbers and carries no metadata (no place, no date, no comment, no
thumbnail).

* ``sources``     what may be passed, how it is named in messages, and what its first bytes say it is
* ``images``      decode and encode pictures
* ``pixels``      any kind of pixels to upright sRGB
* ``containers``  the bytes of PNG, JPEG, WebP, GIF and WAV files: size from the header, metadata off
* ``audio``       decode, mix, resample; encode again
* ``video``       count, sample and decode frames
"""

from workbench.media.audio import MAX_AUDIO_BYTES, MAX_SECONDS, SAMPLE_RATE, Audio, audio_from_record, load_audio
from workbench.media.images import (
    MAX_IMAGE_BYTES,
    MAX_PIXELS,
    MAX_SIDE,
    Image,
    image_from_record,
    load_image,
    patch_grid,
)
from workbench.media.sources import describe, display_name, sniff
from workbench.media.video import (
    FRAMES,
    MAX_VIDEO_BYTES,
    MAX_VIDEO_SECONDS,
    Video,
    load_video,
    sampled,
    video_from_record,
)

__all__ = [
    "FRAMES",
    "MAX_AUDIO_BYTES",
    "MAX_IMAGE_BYTES",
    "MAX_PIXELS",
    "MAX_SECONDS",
    "MAX_SIDE",
    "MAX_VIDEO_BYTES",
    "MAX_VIDEO_SECONDS",
    "SAMPLE_RATE",
    "Audio",
    "Image",
    "Video",
    "audio_from_record",
    "describe",
    "display_name",
    "image_from_record",
    "load_audio",
    "load_image",
    "load_video",
    "patch_grid",
    "sampled",
    "sniff",
    "video_from_record",
]
