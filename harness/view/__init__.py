"""The viewer: pages on a results folder, from a number to the images behind it, served locally or written as files.

Every page is drawn in the browser from JSON, so that the local server and a bundle of static files are the same pages.
All addresses are relative to the folder of index.html (`harness/view/addresses.py` answers them):

  data/board.json                      every row of the board               board.board
  data/leaderboard.csv, .json          the rows as the leaderboard has them
  data/cells/<cell>.json               one cell: numbers, settings, origin  cell.cell_record
  data/cells/<cell>/images.json        how many images, which judges       columns.Columns.about
  data/cells/<cell>/columns/<n>.json   2,048 images by columns              columns.Columns.chunk
  data/cells/<cell>/details/<n>.json   64 images: prompt, scores, boxes     details.details
  data/cells/<cell>/same/<n>.json      their prompts in other cells         same.same_images
  data/cells/<cell>/thumb/<i>.webp     an image, at most 256 pixels wide    pictures.picture
  data/cells/<cell>/full/<i>.webp      an image, at most 1,024 pixels wide
  data/compare/<cell>/<cell>.json      two cells of a bench: tests, flips   pairs.pairs
  events                               server only: what has changed, as server-sent events

<i> counts the images of a cell from 0, in the order of `columns`; <n> counts chunks of them from 0. A query string is
ignored: pages use `?v=` with the version of what they want, so that a browser keeps no stale answer.
"""
