"""What gunicorn serves: `gunicorn pos.wsgi:application`."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "pos.settings")

application = get_wsgi_application()
