"""What an ASGI server serves: `uvicorn pos.asgi:application`."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "pos.settings")

application = get_asgi_application()
