from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='Shop',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(default='Corner Shop', max_length=80)),
                ('currency', models.CharField(default='EUR', max_length=3)),
                ('receipt_footer', models.CharField(blank=True, max_length=200)),
            ],
        ),
    ]
