import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='Heartbeat',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('release', models.CharField(max_length=80)),
                ('at', models.DateTimeField(auto_now_add=True, db_index=True)),
            ],
            options={
                'ordering': ['-id'],
            },
        ),
        migrations.CreateModel(
            name='Report',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('day', models.DateField(default=django.utils.timezone.localdate)),
                ('sales', models.PositiveIntegerField(editable=False, null=True)),
                ('total', models.DecimalField(decimal_places=2, editable=False, max_digits=14, null=True)),
                ('runs', models.PositiveIntegerField(default=0, editable=False)),
                ('release', models.CharField(blank=True, editable=False, max_length=80)),
                ('asked_at', models.DateTimeField(auto_now_add=True)),
                ('built_at', models.DateTimeField(editable=False, null=True)),
            ],
            options={
                'ordering': ['-id'],
            },
        ),
    ]
