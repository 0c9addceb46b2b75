"""The least that has sessions, users and usage."""

import os

SECRET_KEY = "of one test"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "tests.django.project.urls"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"]
MIDDLEWARE = [
    "usagekit.django.UsageMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("SITE_DB", "site.db")}}
USE_TZ = True
USAGEKIT = {"RECORDER": "tests.django.project.usage.recorder", "IDENTIFY": "tests.django.project.usage.identify"}
