"""Pictures without a display: which of the libraries that draw off screen this machine has."""

import ctypes
import ctypes.util
import os
import sys
from typing import Any

PLATFORM_DEVICE, MOST_DEVICES = 0x313F, 16  # EGL_PLATFORM_DEVICE_EXT of eglext.h


def has_display() -> bool:
    """Whether a window could be opened."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def prepare_rendering() -> None:
    """Without a display, tell pygame to open no window, and MuJoCo and dm_control which library draws.

    Both read the choice when they are imported, so this comes first. What the user has set stands.
    """
    if has_display():
        return
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    if "MUJOCO_GL" not in os.environ:
        if "egl" in (os.environ.get("PYOPENGL_PLATFORM") or "egl") and _egl_works():
            os.environ["MUJOCO_GL"] = "egl"
        elif ctypes.util.find_library("OSMesa") is not None:
            os.environ["MUJOCO_GL"] = "osmesa"


def follow(env: Any) -> None:
    """Turn MuJoCo's pictures to the model's camera `track` where Gymnasium's stands still and the body runs away."""
    core = env.unwrapped
    renderer = getattr(core, "mujoco_renderer", None)
    chosen = (getattr(core, name, None) for name in ("camera_id", "camera_name"))
    if renderer is None or "trackbodyid" in (renderer.default_cam_config or {}) or any(c is not None for c in chosen):
        return
    cameras = [core.model.camera(i).name for i in range(core.model.ncam)]
    if "track" in cameras:
        renderer.camera_id = cameras.index("track")


def _egl_works() -> bool:
    """Whether EGL can draw on some device, a GPU or Mesa's software renderer, asked as MuJoCo will ask it."""
    try:
        egl = ctypes.CDLL("libEGL.so.1")
    except OSError:
        return False
    pointer, number = ctypes.c_void_p, ctypes.c_int
    egl.eglGetProcAddress.restype = pointer
    query_address = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
    display_address = egl.eglGetProcAddress(b"eglGetPlatformDisplayEXT")
    if not query_address or not display_address:
        return False
    query = ctypes.CFUNCTYPE(number, number, pointer, pointer)(query_address)
    display_of = ctypes.CFUNCTYPE(pointer, number, pointer, pointer)(display_address)
    egl.eglInitialize.argtypes, egl.eglTerminate.argtypes = (pointer, pointer, pointer), (pointer,)
    devices, count = (pointer * MOST_DEVICES)(), number()
    query(MOST_DEVICES, devices, ctypes.byref(count))
    for device in devices[: count.value]:
        display = display_of(PLATFORM_DEVICE, device, None)
        if display and egl.eglInitialize(display, None, None):
            egl.eglTerminate(display)
            return True
    return False
