import json
import subprocess

film = ["ffmpeg", "-loglevel", "error", "-f", "lavfi", "-i", "testsrc=size=320x240:rate=25:duration=1", "-pix_fmt", "yuv420p"]
subprocess.run([*film, "/output/film.mp4"], check=True)
asked = ["ffprobe", "-v", "error", "-show_entries", "stream=codec_name,width,nb_frames", "-of", "json", "/output/film.mp4"]
stream = json.loads(subprocess.run(asked, check=True, capture_output=True).stdout)["streams"][0]
print(stream["codec_name"], stream["width"], stream["nb_frames"])
